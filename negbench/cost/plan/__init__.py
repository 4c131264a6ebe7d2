"""What a run will cost, before it is started: measured on this device, computed for all of them."""
