"""What the main operations cost: measured by a command, kept with the hardware, on one page."""
