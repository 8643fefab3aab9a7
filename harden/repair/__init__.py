"""What gives a pruned network its accuracy back."""
