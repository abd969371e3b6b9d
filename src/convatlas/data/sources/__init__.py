"""Sources of images and labels: folders, lists, archives, published data sets."""
