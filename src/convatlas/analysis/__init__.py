"""Analysis of any module by one forward pass on meta tensors.

It gives shapes, cost, memory, receptive field and design principles.
"""

from convatlas.analysis.analyze import Report, analyze
from convatlas.analysis.rows import Row

__all__ = ["Report", "Row", "analyze"]
