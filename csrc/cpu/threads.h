// Whether a parallel region may be opened here.
#pragma once

namespace qgemm {

// False inside another parallel region, and in a forked child: libgomp's worker threads do not survive fork(), and a parallel
// region there would wait for them forever.
bool may_share();

}  // namespace qgemm
