// What every C++ program includes; compiled once.
#if __has_include(<bits/c++config.h>)
#include <bits/c++config.h>
// The special functions of C++17 are instantiated anew for each program that includes a compiled <cmath>.
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#endif
#include <stdlib.h>
#include <algorithm>
#include <cmath>
#include <math.h>
#include <numeric>
#include <stdio.h>
#include <vector>
#include <set>
#include <map>
#include <queue>
#include <stack>
#include <list>
#include <deque>
#include <boost/any.hpp>
#include <string>
#include <climits>
#include <cstring>
#include <iostream>
#include <sstream>
#include <fstream>
using namespace std;
