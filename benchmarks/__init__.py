"""What Loopline's speed and accuracy are worth, as ratios measured in one run. `make bench` prints and saves the table."""
