from glob import glob

from setuptools import setup

setup(
    name="dedos_ros",
    version="0.1.0",
    packages=["dedos_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/dedos_ros"]),
        ("share/dedos_ros", ["package.xml"]),
        ("share/dedos_ros/launch", glob("launch/*.py")),
        ("share/dedos_ros/config", glob("config/*")),
    ],
    # dedos-deploy comes from pip: rosdep knows no key for it.
    install_requires=["setuptools", "dedos-deploy"],
    # By which colcon knows that the tests are pytest's.
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="DEDOS Deploy",
    maintainer_email="dedos-deploy@users.noreply.github.com",
    description="Open-vocabulary segmentation of camera images as a ROS 2 lifecycle node",
    license="Apache-2.0",
    entry_points={"console_scripts": ["segmentation = dedos_ros.main:main"]},
)
