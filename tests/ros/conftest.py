"""Tests of the node, for which it is made anew where it has changed."""

from ros_environment import ros_folder

__all__ = ["ros_folder"]

collect_ignore = ["cases"]
"""They need rclpy: `test_ros_node.py` runs them in the environment of ROS."""
