"""Estimators that see each state once and keep no path: means, covariances, correlation in time, honest errors."""

from thermolinalg.streaming.batches import BatchMeans as BatchMeans
from thermolinalg.streaming.lagged import LaggedMoments as LaggedMoments
from thermolinalg.streaming.moments import Moments as Moments
