"""DiffusionGemma with rounded experts: what fits where, the converted form on disk, and foreign formats by name."""
