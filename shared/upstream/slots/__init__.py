"""Slots: what a connection's provider allows, kept by all nodes together, and a fair queue in front of it."""
