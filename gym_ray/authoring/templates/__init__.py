"""What `gym-ray env new` writes, one file a template."""
