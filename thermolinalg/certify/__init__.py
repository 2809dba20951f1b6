"""What can be checked of an answer without knowing it."""

from thermolinalg.certify.bounds import ForwardBound as ForwardBound
from thermolinalg.certify.bounds import LowerBound as LowerBound
from thermolinalg.certify.bounds import forward_bound as forward_bound
from thermolinalg.certify.bounds import lowest_eigenvalue as lowest_eigenvalue
from thermolinalg.certify.determinants import DeterminantCertificate as DeterminantCertificate
from thermolinalg.certify.determinants import certify_logdet as certify_logdet
from thermolinalg.certify.health import Health as Health
from thermolinalg.certify.health import health as health
from thermolinalg.certify.moments import InverseCertificate as InverseCertificate
from thermolinalg.certify.moments import LyapunovCertificate as LyapunovCertificate
from thermolinalg.certify.moments import certify_inv as certify_inv
from thermolinalg.certify.moments import certify_lyapunov as certify_lyapunov
from thermolinalg.certify.residual import Certificate as Certificate
from thermolinalg.certify.residual import certify as certify
from thermolinalg.certify.statistics import Check as Check
