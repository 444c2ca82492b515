"""What comes after training: `adapterlab info`, `adapterlab merge` and `adapterlab export`."""
