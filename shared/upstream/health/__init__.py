"""Health: the cluster's view of deployments and connections; breakers, cooldowns, lockouts."""

from shared.upstream.health.health import Health, Pace, Probe

__all__ = ["Health", "Pace", "Probe"]
