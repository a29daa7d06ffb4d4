"""What happens when providers fail, with four real nodes, real Redis and the simulator as several providers. `make chaos` runs
the long versions, the suite short ones."""
