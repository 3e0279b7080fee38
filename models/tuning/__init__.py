"""Customization by tuning a base model on one object, for comparison: DreamBooth LoRA and Custom Diffusion."""
