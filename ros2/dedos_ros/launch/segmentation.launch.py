"""Start the node with a parameter file: `ros2 launch dedos_ros segmentation.launch.py image:=/camera/image_raw`."""

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

SHARE = get_package_share_directory("dedos_ros")
ARGUMENTS = {
    # name: default, what it is
    "params_file": (f"{SHARE}/config/segmentation.yaml", "the node's parameters"),
    "name": ("dedos", "the node's name, which topics below ~/ begin with"),
    "namespace": ("", "of the node"),
    "image": ("image", "topic of the images"),
    "depth": ("depth", "topic of depth registered to the images, for points"),
    "camera_info": ("camera_info", "topic of the images' camera, for points"),
    "profiles": (f"{SHARE}/config/fastdds_shared_memory.xml", "Fast DDS profiles"),
}


def generate_launch_description() -> LaunchDescription:
    """Return the node, its topics and its parameters."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    node = LifecycleNode(
        package="dedos_ros",
        executable="segmentation",
        name=given["name"],
        namespace=given["namespace"],
        parameters=[given["params_file"]],
        remappings=[(topic, given[topic]) for topic in ("image", "depth", "camera_info")],
        output="screen",
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=what)
                for name, (default, what) in ARGUMENTS.items()
            ),
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", given["profiles"]),
            node,
        ]
    )
