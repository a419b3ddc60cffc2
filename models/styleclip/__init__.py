"""StyleCLIP: editing a generator's pictures by text in three ways (Patashnik et al. 2021)."""
