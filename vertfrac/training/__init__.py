"""Training of both stages from cached arrays: resident data, augmentation on the device, the fit call."""
