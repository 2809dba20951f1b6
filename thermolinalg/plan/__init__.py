"""How long to run: the least total time that reaches an accuracy with a given confidence."""

from thermolinalg.plan.budget import Budget as Budget
from thermolinalg.plan.inverse import inv as inv
from thermolinalg.plan.linear import solve as solve
from thermolinalg.plan.samples import expm as expm
from thermolinalg.plan.samples import lyapunov as lyapunov
from thermolinalg.plan.times import Plan as Plan
from thermolinalg.plan.times import check_plan as check_plan
