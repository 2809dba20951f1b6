"""Figures: errors against device time, measured and predicted, and the energies of samples."""

from thermolinalg.figures.averages import ErrorCurve as ErrorCurve
from thermolinalg.figures.averages import check_curve as check_curve
from thermolinalg.figures.averages import error_curve as error_curve
from thermolinalg.figures.averages import error_figure as error_figure
from thermolinalg.figures.axes import png as png
from thermolinalg.figures.energies import energy_figure as energy_figure
from thermolinalg.figures.refinements import RefinementCurve as RefinementCurve
from thermolinalg.figures.refinements import refinement_curve as refinement_curve
from thermolinalg.figures.refinements import refinement_figure as refinement_figure
from thermolinalg.figures.repeated import RepeatedErrors as RepeatedErrors
from thermolinalg.figures.repeated import repeated_errors as repeated_errors
from thermolinalg.figures.repeated import repeated_figure as repeated_figure
from thermolinalg.figures.sweeps import sweep_figure as sweep_figure
