"""From stored Gaussians to 2D Gaussians with colours, and back to gradients."""
