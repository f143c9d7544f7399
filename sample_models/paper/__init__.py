"""The paper's claims, one by one: what is claimed, how it is measured, and by which rule a verdict is reached."""
