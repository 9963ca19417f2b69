# Lower the version that the file PTX states to 8.0, which every driver of CUDA 12 compiles. The text stays
# as it is: ptxas of CUDA 12, which assembles it next, refuses what that version does not have.
file(READ ${PTX} text)
string(REGEX REPLACE "\n\\.version [0-9]+\\.[0-9]+\n" "\n.version 8.0\n" lowered "${text}")
if(lowered STREQUAL text)
  message(FATAL_ERROR "${PTX} states no version that is newer than 8.0")
endif()
file(WRITE ${PTX} "${lowered}")
