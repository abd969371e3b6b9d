"""Dense prediction: masks of class ids, tiling, scores."""
