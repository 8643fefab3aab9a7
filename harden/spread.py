"""Searches that do not need one another, side by side: a thread for each core, and one core for each thread.

A small network on a few dozen small pictures hardly gains from a second core for one pass: the cores wait for one
another at every layer. Two passes at once do. Each thread has a network of its own, since some remember what passed
through them, and what comes out is the same however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from threading import Event, Lock, local
from typing import TypeVar

import torch

from harden.network import Classifier
from harden.types import UNSEEN, Cost, Task

ROOM = 16 * 32 * 32
"""Pixels of the pictures that stand side by side, one of each job: each pass needs memory of its own. Where they are
too large for two, the cores share each pass, as they do in everything else, and gain as much by that."""
T = TypeVar("T")
Tell = Callable[[float, str], None]
"""So many steps further, and what is going on. Ends the search if the run was interrupted."""
Job = Callable[[Classifier, Tell], T]


class _StoppedError(Exception):
    """The run was interrupted."""


def spread(model: Classifier, jobs: Sequence[Job[T]], task: Task = UNSEEN) -> list[T]:
    """What each job comes to, in their order; each is given a network that it has for itself meanwhile."""
    threads = _threads(model, len(jobs))
    if threads < 2:
        return [job(model, task.advance) for job in jobs]
    own, lock, stop, before = local(), Lock(), Event(), torch.get_num_threads()

    def tell(steps: float, note: str) -> None:
        if stop.is_set():
            raise _StoppedError
        with lock:
            task.advance(steps, note)

    def start() -> None:
        torch.set_num_threads(1)
        own.model = _private(model)

    def work(job: Job[T]) -> T:
        cost: Cost = own.model.cost
        already = copy(cost)
        try:
            return job(own.model, tell)
        finally:
            with lock:
                model.cost.forward_images += cost.forward_images - already.forward_images
                model.cost.backward_images += cost.backward_images - already.backward_images

    pool = ThreadPoolExecutor(threads, initializer=start)
    try:
        return [future.result() for future in [pool.submit(work, job) for job in jobs]]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _threads(model: Classifier, jobs: int) -> int:
    """How many jobs go on at once."""
    _, height, width = model.contract.input_size
    return min(torch.get_num_threads(), jobs, ROOM // (height * width)) if model.mean.device.type == "cpu" else 1


def _private(model: Classifier) -> Classifier:
    """A copy that asks for the same gradients and counts for itself."""
    made = model.copy()
    for parameter, like in zip(made.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(like.requires_grad)
    made.cost = Cost()
    return made.train(model.training)
