#include "label_map.h"
