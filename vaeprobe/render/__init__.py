"""Results and reports as text: terminal, JSON, Markdown, HTML, and the machine formats of `check`."""
