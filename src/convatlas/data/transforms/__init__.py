"""From decoded images to the network's input: crops, augmentation, preprocessing, normalisation."""
