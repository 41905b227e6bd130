"""The coordinator's own side of a real federation: its folder, certificates, invitations, register and processes."""
