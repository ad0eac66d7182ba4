"""Constants that decide which pixels a Gaussian touches, and how much. All backends share them."""

# A Gaussian fainter than this at a pixel does not touch it (3DGS: one step of an 8-bit image).
ALPHA_THRESHOLD = 1 / 255
# No Gaussian reaches beyond this many sigma: exp(-3.33^2 / 2) < 1/255 (gsplat).
MAX_SIGMAS = 3.33
# Alpha is clamped below 1, so that 1 / (1 - alpha) stays finite (gsplat 1.5.3).
MAX_ALPHA = 0.999
# A pixel is finished when its transmittance would fall to this or below; the Gaussian that would do that is left
# out (3DGS).
MIN_TRANSMITTANCE = 1e-4
# Low-pass filter added to the 2D covariance, px^2 (3DGS; about one pixel wide).
EPS2D = 0.3
# Planes between which centres are drawn, world units (gsplat).
NEAR_PLANE = 0.01
FAR_PLANE = 1e10
