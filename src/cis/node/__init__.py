"""The composition root: settings, and what is wired into a node, a worker or an embedded run."""
