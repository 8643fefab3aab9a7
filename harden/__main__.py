"""`python -m harden` is `harden`."""

from harden.cli import main

main()
