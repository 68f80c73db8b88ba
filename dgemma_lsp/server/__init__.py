"""What speaks the protocol: one process, its sessions, its requests, the thread that owns the model."""
