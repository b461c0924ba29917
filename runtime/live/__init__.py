"""Live video: the newest frame wins, a broken stream comes back, and every frame knows when it was taken."""
