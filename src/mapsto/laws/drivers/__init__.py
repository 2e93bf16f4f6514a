"""What a wing tells the laws of a native kind: one small driver a kind, numbers and NumPy arrays in and out."""

from .export import ExportCase as ExportCase
from .export import ExportDriver as ExportDriver
from .export import Run as Run
from .layer import LayerDriver as LayerDriver
from .loss import LossDriver as LossDriver
from .loss import LossValue as LossValue
from .middleware import MiddlewareDriver as MiddlewareDriver
from .middleware import MiddlewareProgram as MiddlewareProgram
from .middleware import Watch as Watch
from .optimizer import Optimizer as Optimizer
from .optimizer import OptimizerDriver as OptimizerDriver
from .program import ProgramDriver as ProgramDriver
from .program import RankedProgram as RankedProgram
from .program import Sums as Sums
from .schedule import Schedule as Schedule
from .schedule import ScheduleDriver as ScheduleDriver
from .surgery import SurgeryDriver as SurgeryDriver
from .task import TaskDriver as TaskDriver
from .task import TaskValue as TaskValue
