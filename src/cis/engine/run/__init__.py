"""A worker's loop: what runs, what starts next, and what each end leads to."""
