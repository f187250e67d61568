"""What annotating takes besides a viewer and a server: images, labels, corrections, choice of samples, training."""
