"""One visit to a machine with an NVIDIA GPU: builds, parity, speed, and a table of them."""
