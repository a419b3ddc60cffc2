"""The furniture every tab is made of; each module stands for itself, import what you need."""
