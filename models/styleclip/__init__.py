"""StyleCLIP: three ways to edit a StyleGAN2 picture by text (Patashnik et al. 2021)."""
