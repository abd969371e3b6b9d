"""Where images and labels come from: folders, lists, archives, published sets."""
