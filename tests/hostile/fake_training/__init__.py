"""A dataset of one sample and a checkpoint of one weight, with the files and headers of the real ones, without torch's
training."""
