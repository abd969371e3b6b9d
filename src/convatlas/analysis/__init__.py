"""Reading a network: shapes, cost, memory, receptive field and design principles of any module, from one forward on meta tensors."""

from convatlas.analysis.report import Report, Row, analyze

__all__ = ["Report", "Row", "analyze"]
