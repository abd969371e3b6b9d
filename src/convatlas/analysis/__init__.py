"""Reading a network: shapes, cost, memory, receptive field and design principles of any module, from one forward on meta tensors."""

from convatlas.analysis.analyze import Report, analyze
from convatlas.analysis.rows import Row

__all__ = ["Report", "Row", "analyze"]
