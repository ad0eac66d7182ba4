"""splax: Gaussian splatting in pure JAX."""

from splax.cameras import Camera as Camera
from splax.gaussians import Gaussians as Gaussians
from splax.model import SplatModel as SplatModel
from splax.rasterizer import RenderOutput as RenderOutput
from splax.rasterizer import TileRasterizer as TileRasterizer

__version__ = "0.1.0"
