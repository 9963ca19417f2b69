"""The lifecycle node: parameters and transitions."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String

from dedos_deploy import Segmenter
from dedos_deploy.errors import DedosError, nearest
from dedos_deploy.progress import Progress
from dedos_deploy.vocabulary import Vocabulary
from dedos_ros import messages
from dedos_ros.camera import Camera
from dedos_ros.labeller import Labeller
from dedos_ros.settings import Settings

DIAGNOSTICS_PERIOD_S = 1.0
LIVE = "classes"


Step = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _told(step: Step) -> Step:
    """Log what a transition raises, which rclpy takes for an ERROR without a word."""

    @functools.wraps(step)
    def run(node: Any, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return step(node, state)
        except DedosError as error:
            node.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:
            if node.context.ok():  # else a signal has ended it
                node.get_logger().error(traceback.format_exc())
            raise

    return run


class SegmentationNode(LifecycleNode):
    """Labels images of one or several cameras with one engine; any number of them in one process."""

    def __init__(self, name: str = "dedos", **options: Any) -> None:
        """options: as of rclpy's `LifecycleNode`."""
        super().__init__(name, **options)
        self._segmenter: Segmenter | None = None
        self._settings: Settings | None = None
        self._cameras: dict[str, Camera] = {}
        self._labeller: Labeller | None = None
        # Of its own, so that images go on arriving while new words are encoded.
        self._images = MutuallyExclusiveCallbackGroup()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._report)
        for key, value in Settings.defaults().items():
            self.declare_parameter(key, value, ParameterDescriptor())
        self._warn_of_unknown()
        self.create_subscription(String, "~/change_prompt", self._prompted, 10)
        self.add_on_set_parameters_callback(self._setting)

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the bundle and encode the words."""
        settings = Settings.from_values(self._values())
        self._segmenter = _segmenter(settings, _Logged(self.get_logger()))
        self._settings = settings
        self._cameras = {
            name: Camera(self, name, self._segmenter, settings, self._arrived)
            for name in settings.cameras
        }
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take images and publish."""
        done = super().on_activate(state)
        self._labeller = Labeller(lambda camera, message: self._cameras[camera].label(message))
        for camera in self._cameras.values():
            camera.announce()
            camera.subscribe(self._images)
        return done

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images; the words and their ids stay."""
        self._rest()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the engine."""
        self._release()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images and release the engine."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that it can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Release everything."""
        self._release()
        super().destroy_node()

    def _arrived(self, camera: str, message: Any) -> bool:
        labeller = self._labeller  # another thread may take it away
        return labeller is not None and labeller.put(camera, message)

    def _warn_of_unknown(self) -> None:
        """Say which parameters were given and are nobody's: ROS takes them in silence."""
        for name in self._parameter_overrides:
            if not (self.has_parameter(name) or name.startswith("qos_overrides.")):
                hint = nearest(name, Settings.defaults())
                self.get_logger().warning(f"parameter {name!r} is unknown and has no effect{hint}")

    def _rest(self) -> None:
        for camera in self._cameras.values():
            camera.unsubscribe()
        if self._labeller is not None:
            self._labeller.stop()
            self._labeller = None

    def _release(self) -> None:
        self._rest()
        for camera in self._cameras.values():
            camera.close()
        self._cameras = {}
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None

    def _values(self) -> dict[str, Any]:
        empty = Parameter("empty", Parameter.Type.NOT_SET)
        return {name: self.get_parameter_or(name, empty).value for name in Settings.defaults()}

    def _setting(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check parameters; a new list of classes holds once this returns, or none of them does."""
        changed = {each.name: each.value for each in parameters if each.name in Settings.defaults()}
        try:
            if changed:
                settings = self._check(changed)
            if LIVE in changed and self._segmenter is not None:
                self._change_classes(settings.vocabulary)
        except DedosError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _check(self, changed: dict[str, Any]) -> Settings:
        fixed = sorted(set(changed) - {LIVE})
        if fixed and self._segmenter is not None:
            raise DedosError(f"{fixed[0]} is read at configure; clean the node up first")
        return Settings.from_values({**self._values(), **changed})

    def _change_classes(self, vocabulary: Vocabulary) -> None:
        assert self._segmenter is not None, "by its caller"
        self._segmenter.set_classes(vocabulary)
        if self._labeller is not None:
            for camera in self._cameras.values():
                camera.announce()

    def _prompted(self, message: String) -> None:
        """Take a list of words, as `road,car|automobile`, or a words file for the parameter `classes`."""
        words = [word.strip() for word in message.data.split(",")]
        (result,) = self.set_parameters([Parameter(LIVE, Parameter.Type.STRING_ARRAY, words)])
        if not result.successful:
            self.get_logger().error(f"change_prompt: {result.reason}")

    def _report(self) -> None:
        if self._labeller is not None and self._labeller.failure is not None:
            raise self._labeller.failure
        if self._settings is None:
            return
        known = {"bundle": self._settings.bundle, "engine": self._settings.engine}
        if self._segmenter is not None:
            known["vocabulary_version"] = str(self._segmenter.vocabulary_version)
        cameras = {name: camera.health for name, camera in self._cameras.items()}
        name = self.get_fully_qualified_name().lstrip("/")
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(messages.diagnostics(stamp, name, cameras, known))


class _Logged(Progress):
    """Says in the node's log what takes long, as the first build of an engine."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def begin(self, number: int, count: int, what: str) -> None:
        self._logger.info(" ".join((what, f"({number} of {count})")))

    def warn(self, text: str) -> None:
        self._logger.warning(text)


def _segmenter(settings: Settings, progress: Progress) -> Segmenter:
    return Segmenter.load(
        settings.bundle,
        classes=settings.vocabulary,
        engine=settings.engine,
        background=settings.background,
        threshold=None if settings.threshold < 0 else settings.threshold,
        tiles=settings.tiles or None,
        threads=settings.threads or None,
        gpu=settings.gpu,
        on_progress=progress,
    )
