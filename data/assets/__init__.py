"""Sources of 3D assets: objaverse and folder here, the miniature's in models/miniature/assets.py."""
