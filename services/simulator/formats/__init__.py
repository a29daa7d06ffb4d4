"""The wire formats that the simulator speaks: one module each, and base.py for what they share."""
