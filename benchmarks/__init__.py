"""What Loopline's speed and accuracy are worth, as ratios of one run. `make bench` prints and saves the table."""
