"""Models side by side, and whether they have the same latents: `vaeprobe.compare`, `vaeprobe compare`."""
