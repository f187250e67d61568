"""A MONAI Label app that annotates short-axis cine MR; `python -m monailabel_app --help`."""
